// Package client of BuildKit gets these aliases in place of its own declarations.
package client

import lib "github.com/layercache/cache/usage"

type (
	// UsageInfo is what is told about a record.
	UsageInfo = lib.Info
	// UsageRecordType says what a record is for.
	UsageRecordType = lib.RecordType
	// DiskUsageInfo is what to list.
	DiskUsageInfo = lib.DiskUsageInfo
	// PruneInfo is what to delete.
	PruneInfo = lib.PruneInfo
)
