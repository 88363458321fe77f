package usage_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/usage"
)

func TestInfoJSONNames(t *testing.T) { // spec 0.3
	used := time.Unix(2, 0).UTC()
	b, err := json.Marshal(usage.Info{
		ID: "r", Mutable: true, InUse: true, Size: 7, CreatedAt: time.Unix(1, 0).UTC(), LastUsedAt: &used,
		UsageCount: 3, Parents: []string{"p"}, Description: "d", RecordType: usage.TypeCacheMount, Shared: true,
	})
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"r","mutable":true,"inUse":true,"size":7,"createdAt":"1970-01-01T00:00:01Z",
		"lastUsedAt":"1970-01-01T00:00:02Z","usageCount":3,"parents":["p"],"description":"d",
		"recordType":"exec.cachemount","shared":true}`, string(b))
}

func TestPruneInfoJSONNames(t *testing.T) { // spec 0.3
	b, err := json.Marshal(usage.PruneInfo{All: true, Filter: []string{"id==x"}, KeepDuration: 4, ReservedSpace: 1, MaxUsedSpace: 2, MinFreeSpace: 3})
	require.NoError(t, err)
	require.JSONEq(t, `{"all":true,"filter":["id==x"],"keepDuration":4,"reservedSpace":1,"maxUsedSpace":2,"minFreeSpace":3}`, string(b))
}
