package containerd

import (
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// complete returns an error for an answer without what was asked for, which containerd's proxies would go on with as if it were there.
func complete(reply any) error {
	there := true
	switch r := reply.(type) {
	case *contentapi.InfoResponse:
		there = r.Info != nil
	case *contentapi.UpdateResponse:
		there = r.Info != nil
	case *contentapi.StatusResponse:
		there = r.Status != nil
	case *diffapi.ApplyResponse:
		there = r.Applied != nil
	case *diffapi.DiffResponse:
		there = r.Diff != nil
	case *leasesapi.CreateResponse:
		there = r.Lease != nil
	case *snapshotsapi.StatSnapshotResponse:
		there = r.Info != nil
	case *snapshotsapi.UpdateSnapshotResponse:
		there = r.Info != nil
	}
	if !there {
		return status.Errorf(codes.Internal, "containerd's answer %T is empty", reply)
	}
	return nil
}
