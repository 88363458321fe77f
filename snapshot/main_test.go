package snapshot_test

import (
	"testing"

	"github.com/layercache/cache/snapshot/snapshottest"
)

func TestMain(m *testing.M) { snapshottest.Main(m) }
