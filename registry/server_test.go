package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // where the registry keeps its blobs
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// hub is the registry of this process. Tests share it and push to repositories of their own; it is started before any cache
// is opened, so that its goroutines are not taken for a cache's.
var hub *httptest.Server

func TestMain(m *testing.M) {
	// What fails here does so on purpose; the errors are asserted on, not read.
	if err := log.SetLevel("panic"); err != nil {
		panic(err)
	}
	hub = httptest.NewServer(handlers.NewApp(context.Background(), &configuration.Configuration{
		HTTP: configuration.HTTP{Secret: "known to this process only"},
		Storage: configuration.Storage{
			"inmemory": configuration.Parameters{},
			// The purger of abandoned uploads is a goroutine that never ends.
			"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
		},
		Catalog: configuration.Catalog{MaxEntries: 100},
	}))
	code := m.Run()
	hub.Close()
	os.Exit(code)
}

// newClient returns a client that leaves no connection behind. The docker packages would share their connections otherwise,
// whose goroutines outlive a test.
func newClient(t testing.TB) *http.Client {
	tr := &http.Transport{DisableKeepAlives: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func newResolver(t testing.TB) remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(
		docker.WithPlainHTTP(docker.MatchAllHosts), docker.WithClient(newClient(t)),
	)})
}

// pushed says which repositories hold which blobs, so that the tests' common images go over the wire once.
var pushed sync.Map

// push puts an image into the registry as repo:latest, through containerd's pusher.
func push(t testing.TB, repo string, img *image) {
	t.Helper()
	ctx := context.Background()
	pusher, err := newResolver(t).Pusher(ctx, hubHost()+"/"+repo+":latest")
	require.NoError(t, err)
	config := ocispecs.Image{
		Platform: ocispecs.Platform{Architecture: "amd64", OS: "linux"},
		RootFS:   ocispecs.RootFS{Type: "layers"},
	}
	manifest := ocispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest}
	for _, l := range img.layers {
		if _, again := pushed.LoadOrStore(repo+"@"+l.desc.Digest.String(), true); !again {
			pushBlob(t, pusher, l.desc, l.blob)
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
		manifest.Layers = append(manifest.Layers, l.desc)
	}
	manifest.Config = pushJSON(t, pusher, ocispecs.MediaTypeImageConfig, config)
	pushJSON(t, pusher, ocispecs.MediaTypeImageManifest, manifest)
}

func pushJSON(t testing.TB, pusher remotes.Pusher, mediaType string, value any) ocispecs.Descriptor {
	t.Helper()
	text, err := json.Marshal(value)
	require.NoError(t, err)
	desc := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}
	pushBlob(t, pusher, desc, text)
	return desc
}

func pushBlob(t testing.TB, pusher remotes.Pusher, desc ocispecs.Descriptor, data []byte) {
	t.Helper()
	ctx := context.Background()
	w, err := pusher.Push(ctx, desc)
	if errdefs.IsAlreadyExists(err) {
		return
	}
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	require.NoError(t, content.Copy(ctx, w, bytes.NewReader(data), desc.Size, desc.Digest))
}

func hubHost() string { return strings.TrimPrefix(hub.URL, "http://") }

// repoName is a repository of the test's own.
func repoName(t testing.TB) string {
	return "test/" + digest.FromString(t.Name()).Encoded()[:16]
}

// TestRegistry pushes an image and reads its parts back as they were, through the proxy, which counts.
func TestRegistry(t *testing.T) {
	img := newImage(t, 1, plain, 3).mix(t, gzipped, zstded, plain)
	f := newFront(t)
	remote := f.publish(t, img)
	require.Len(t, remote.descs, 3)
	require.Zero(t, f.blobs(), "the layers' descriptors cost no layer")
	for i, desc := range remote.descs {
		require.Equal(t, img.layers[i].diffID.String(), desc.Annotations[uncompressedLabel])
		ra, err := remote.handlers()[desc.Digest].Provider(nil).ReaderAt(t.Context(), desc)
		require.NoError(t, err)
		require.Equal(t, desc.Size, ra.Size())
		got, err := io.ReadAll(content.NewReader(ra))
		require.NoError(t, err)
		require.NoError(t, ra.Close())
		require.Equal(t, img.layers[i].blob, got)
		require.Equal(t, 1, f.gets(desc.Digest))
	}
	require.Equal(t, 3, f.blobs())
}
