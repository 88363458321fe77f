package main

import (
	"context"
	"slices"
	"strings"

	"github.com/layercache/cache/internal/console"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/usage"
)

// listRecords lists what can be exported, the oldest first. What is writable is exported as it is now.
func listRecords(ctx context.Context, c *local.Cache, out *console.Printer) error {
	records, err := c.DiskUsage(ctx, usage.DiskUsageInfo{})
	if err != nil {
		return err
	}
	slices.SortFunc(records, func(a, b *usage.Info) int {
		if order := a.CreatedAt.Compare(b.CreatedAt); order != 0 {
			return order
		}
		return strings.Compare(a.ID, b.ID)
	})
	for _, r := range records {
		kind := "layer"
		if r.Mutable {
			kind = "writable"
		}
		out.Printf("%s  %-8s  %10s  %s  %s\n", r.ID, kind, console.Bytes(r.Size), r.CreatedAt.UTC().Format("2006-01-02 15:04:05"),
			console.Name(r.Description))
	}
	return out.Err
}
