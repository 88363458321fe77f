package containerd

import (
	"context"
	"net"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/emptypb"
)

// fakeDaemon is a daemon in this process. A method whose channel is set waits until that is closed, or the call ends; all answers are empty.
type fakeDaemon struct {
	stat, prepare, health, write chan struct{}
	// asked gets a word for each health check; ended, for each call that ended before its channel was closed.
	asked, ended chan struct{}
}

func newFake() *fakeDaemon {
	return &fakeDaemon{asked: make(chan struct{}, 100), ended: make(chan struct{}, 100)}
}

// serve returns a client of the daemon. Both end with the test.
func (d *fakeDaemon) serve(t *testing.T) *client.Client {
	t.Helper()
	listener, server := bufconn.Listen(1<<20), grpc.NewServer()
	contentapi.RegisterContentServer(server, contentServer{d: d})
	diffapi.RegisterDiffServer(server, diffServer{})
	introspectionapi.RegisterIntrospectionServer(server, introspectionServer{})
	leasesapi.RegisterLeasesServer(server, leasesServer{})
	snapshotsapi.RegisterSnapshotsServer(server, snapshotsServer{d: d})
	healthapi.RegisterHealthServer(server, healthServer{d: d})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	cc, err := grpc.NewClient("passthrough:///fake", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	require.NoError(t, err)
	c, err := client.NewWithConn(cc)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		server.Stop()
		require.NoError(t, <-served)
	})
	return c
}

// wait waits for a channel, if it is set.
func (d *fakeDaemon) wait(ctx context.Context, until chan struct{}) error {
	if until == nil {
		return nil
	}
	select {
	case <-until:
		return nil
	case <-ctx.Done():
		d.ended <- struct{}{}
		return status.FromContextError(ctx.Err()).Err()
	}
}

// The services are types of their own, as some have methods of the same names.
type (
	contentServer struct {
		contentapi.UnimplementedContentServer
		d *fakeDaemon
	}
	diffServer struct {
		diffapi.UnimplementedDiffServer
	}
	introspectionServer struct {
		introspectionapi.UnimplementedIntrospectionServer
	}
	leasesServer struct {
		leasesapi.UnimplementedLeasesServer
	}
	snapshotsServer struct {
		snapshotsapi.UnimplementedSnapshotsServer
		d *fakeDaemon
	}
	healthServer struct {
		healthapi.UnimplementedHealthServer
		d *fakeDaemon
	}
)

func (s healthServer) Check(ctx context.Context, _ *healthapi.HealthCheckRequest) (*healthapi.HealthCheckResponse, error) {
	s.d.asked <- struct{}{}
	return &healthapi.HealthCheckResponse{Status: healthapi.HealthCheckResponse_SERVING}, s.d.wait(ctx, s.d.health)
}

func (introspectionServer) Server(context.Context, *emptypb.Empty) (*introspectionapi.ServerResponse, error) {
	return &introspectionapi.ServerResponse{UUID: "fake"}, nil
}

func (introspectionServer) Plugins(context.Context, *introspectionapi.PluginsRequest) (*introspectionapi.PluginsResponse, error) {
	return &introspectionapi.PluginsResponse{Plugins: []*introspectionapi.Plugin{{ID: "overlayfs"}}}, nil
}

func (s snapshotsServer) Prepare(ctx context.Context, _ *snapshotsapi.PrepareSnapshotRequest) (*snapshotsapi.PrepareSnapshotResponse, error) {
	return &snapshotsapi.PrepareSnapshotResponse{}, s.d.wait(ctx, s.d.prepare)
}

func (s snapshotsServer) Stat(ctx context.Context, _ *snapshotsapi.StatSnapshotRequest) (*snapshotsapi.StatSnapshotResponse, error) {
	return &snapshotsapi.StatSnapshotResponse{}, s.d.wait(ctx, s.d.stat)
}

func (snapshotsServer) Update(context.Context, *snapshotsapi.UpdateSnapshotRequest) (*snapshotsapi.UpdateSnapshotResponse, error) {
	return &snapshotsapi.UpdateSnapshotResponse{}, nil
}

// List sends one snapshot, and does not end by itself.
func (s snapshotsServer) List(_ *snapshotsapi.ListSnapshotsRequest, stream snapshotsapi.Snapshots_ListServer) error {
	if err := stream.Send(&snapshotsapi.ListSnapshotsResponse{Info: []*snapshotsapi.Info{{Name: "one"}}}); err != nil {
		return err
	}
	return s.d.wait(stream.Context(), make(chan struct{}))
}

func (contentServer) Info(context.Context, *contentapi.InfoRequest) (*contentapi.InfoResponse, error) {
	return &contentapi.InfoResponse{}, nil
}

func (contentServer) Update(context.Context, *contentapi.UpdateRequest) (*contentapi.UpdateResponse, error) {
	return &contentapi.UpdateResponse{}, nil
}

func (contentServer) Status(context.Context, *contentapi.StatusRequest) (*contentapi.StatusResponse, error) {
	return &contentapi.StatusResponse{}, nil
}

// List sends one blob, and does not end by itself.
func (s contentServer) List(_ *contentapi.ListContentRequest, stream contentapi.Content_ListServer) error {
	if err := stream.Send(&contentapi.ListContentResponse{Info: []*contentapi.Info{{Digest: "one"}}}); err != nil {
		return err
	}
	return s.d.wait(stream.Context(), make(chan struct{}))
}

// Write answers the first message, in which a writer asks how far it is, at once.
func (s contentServer) Write(stream contentapi.Content_WriteServer) error {
	for first := true; ; first = false {
		req, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // the client is done
		}
		if !first {
			if err := s.d.wait(stream.Context(), s.d.write); err != nil {
				return err
			}
		}
		if err := stream.Send(&contentapi.WriteContentResponse{Offset: req.Offset + int64(len(req.Data))}); err != nil {
			return err
		}
	}
}

func (diffServer) Apply(context.Context, *diffapi.ApplyRequest) (*diffapi.ApplyResponse, error) {
	return &diffapi.ApplyResponse{}, nil
}

func (diffServer) Diff(context.Context, *diffapi.DiffRequest) (*diffapi.DiffResponse, error) {
	return &diffapi.DiffResponse{}, nil
}

func (leasesServer) Create(context.Context, *leasesapi.CreateRequest) (*leasesapi.CreateResponse, error) {
	return &leasesapi.CreateResponse{}, nil
}

func (leasesServer) Delete(context.Context, *leasesapi.DeleteRequest) (*emptypb.Empty, error) {
	return nil, status.Error(codes.NotFound, "there are none")
}
