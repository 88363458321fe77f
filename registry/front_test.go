package registry

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// front is a reverse proxy before the registry. It counts what is fetched, and answers for chosen blobs as a test tells it.
type front struct {
	host    string
	closing chan struct{}
	proxy   *httputil.ReverseProxy

	mu    sync.Mutex
	plans map[digest.Digest][]answer
	got   []digest.Digest // blobs in the order they were asked for
	other int             // requests that are not about blobs
}

// answer makes a response out of the registry's own. It may end the connection instead, by panic(http.ErrAbortHandler).
type answer func(x *exchange)

// exchange is one request for a blob and what the registry said to it.
type exchange struct {
	http.ResponseWriter
	r       *http.Request
	status  int
	header  http.Header
	body    []byte
	closing <-chan struct{}
}

// newFront starts a proxy. It must be made before the cache whose requests it serves.
func newFront(t testing.TB) *front {
	t.Helper()
	target, err := url.Parse(hub.URL)
	require.NoError(t, err)
	f := &front{
		closing: make(chan struct{}),
		plans:   map[digest.Digest][]answer{},
		proxy: &httputil.ReverseProxy{
			Transport: newClient(t).Transport,
			Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
			ErrorLog:  log.New(io.Discard, "", 0), // clients that go away are part of the tests
		},
	}
	srv := httptest.NewServer(f)
	f.host = strings.TrimPrefix(srv.URL, "http://")
	t.Cleanup(func() {
		close(f.closing)
		srv.Close()
	})
	return f
}

// blob says how requests for a blob are answered: each as the next in the list, and all that follow as the last.
func (f *front) blob(d digest.Digest, answers ...answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plans[d] = answers
}

// gets counts the requests for one blob.
func (f *front) gets(d digest.Digest) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, got := range f.got {
		if got == d {
			n++
		}
	}
	return n
}

// blobs counts the requests for blobs.
func (f *front) blobs() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.got)
}

// requests counts all requests.
func (f *front) requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.got) + f.other
}

// forget starts the counts anew.
func (f *front) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got, f.other = nil, 0
}

// fetched returns which blobs were asked for, without repetition.
func (f *front) fetched() []digest.Digest {
	f.mu.Lock()
	defer f.mu.Unlock()
	got := slices.Clone(f.got)
	slices.Sort(got)
	return slices.Compact(got)
}

// next notes a request and returns how to answer it; nil means as the registry does.
func (f *front) next(d digest.Digest) answer {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d == "" {
		f.other++
		return nil
	}
	f.got = append(f.got, d)
	plan := f.plans[d]
	if len(plan) == 0 {
		return nil
	}
	if len(plan) > 1 {
		f.plans[d] = plan[1:]
	}
	return plan[0]
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, last, ok := strings.Cut(r.URL.Path, "/blobs/")
	d, err := digest.Parse(last)
	if !ok || err != nil || r.Method != http.MethodGet {
		d = ""
	}
	reply := f.next(d)
	if reply == nil {
		f.proxy.ServeHTTP(w, r)
		return
	}
	rec := httptest.NewRecorder()
	f.proxy.ServeHTTP(rec, r)
	reply(&exchange{ResponseWriter: w, r: r, status: rec.Code, header: rec.Header(), body: rec.Body.Bytes(), closing: f.closing})
}

// send writes the head for a body of the given length and the part of it that is there.
func (x *exchange) send(length int, body []byte) {
	for key, values := range x.header {
		x.Header()[key] = values
	}
	x.Header().Set("Content-Length", strconv.Itoa(length))
	x.WriteHeader(x.status)
	x.write(body)
}

// write sends more of the body, at once.
func (x *exchange) write(body []byte) {
	if _, err := x.Write(body); err != nil {
		panic(http.ErrAbortHandler)
	}
	if err := http.NewResponseController(x.ResponseWriter).Flush(); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// honest gives the registry's own answer.
func honest(x *exchange) { x.send(len(x.body), x.body) }

// status answers with a code and a few words.
func status(code int) answer {
	return func(x *exchange) { http.Error(x.ResponseWriter, http.StatusText(code), code) }
}

// cut breaks the connection off in the middle of the blob.
func cut(x *exchange) {
	x.send(len(x.body), x.body[:len(x.body)/2])
	panic(http.ErrAbortHandler)
}

// wrong sends other bytes, as many as it should.
func wrong(x *exchange) {
	body := slices.Clone(x.body)
	for i := len(body) / 2; i < len(body); i++ {
		body[i] ^= 0x55
	}
	x.send(len(body), body)
}

// short sends less than there is, and says so.
func short(x *exchange) {
	body := x.body[:len(x.body)*3/4]
	x.send(len(body), body)
}

// long sends more than there is, and says so.
func long(x *exchange) {
	body := slices.Concat(x.body, []byte("and a few bytes more"))
	x.send(len(body), body)
}

// gate holds a response up until the test lets it go on.
type gate struct {
	reached chan struct{} // gets a value for every request that waits
	left    chan struct{} // gets a value for every one of them whose client goes away
	open    chan struct{} // to be closed
}

func newGate() *gate {
	return &gate{reached: make(chan struct{}, 100), left: make(chan struct{}, 100), open: make(chan struct{})}
}

func (g *gate) wait(x *exchange) {
	g.reached <- struct{}{}
	select {
	case <-g.open:
	case <-x.r.Context().Done():
		g.left <- struct{}{}
		panic(http.ErrAbortHandler)
	case <-x.closing:
		panic(http.ErrAbortHandler)
	}
}

// hang answers nothing at all until the gate opens.
func (g *gate) hang(x *exchange) {
	g.wait(x)
	honest(x)
}

// stall sends half of the blob, and the rest when the gate opens.
func (g *gate) stall(x *exchange) {
	half := len(x.body) / 2
	x.send(len(x.body), x.body[:half])
	g.wait(x)
	x.write(x.body[half:])
}

// TestFront shows that the proxy does what the other tests rely on.
func TestFront(t *testing.T) {
	img := newImage(t, 2, plain, 1)
	f := newFront(t)
	remote := f.publish(t, img)
	blob := img.layers[0]
	client := newClient(t)
	get := func() (code int, body []byte, err error) {
		repo := "http://" + f.host + "/v2/" + repoName(t)
		resp, err := client.Get(repo + "/blobs/" + remote.descs[0].Digest.String())
		require.NoError(t, err)
		body, err = io.ReadAll(resp.Body)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode, body, err
	}
	size := len(blob.blob)

	f.blob(blob.desc.Digest, wrong, short, long, status(http.StatusServiceUnavailable), cut, honest)
	_, body, err := get()
	require.NoError(t, err)
	require.Len(t, body, size)
	require.NotEqual(t, blob.blob, body)
	_, body, err = get()
	require.NoError(t, err)
	require.Less(t, len(body), size)
	_, body, err = get()
	require.NoError(t, err)
	require.Greater(t, len(body), size)
	code, _, err := get()
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, code)
	_, body, err = get()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Len(t, body, size/2)
	for range 2 {
		_, body, err = get()
		require.NoError(t, err)
		require.Equal(t, blob.blob, body)
	}
	require.Equal(t, 7, f.gets(blob.desc.Digest))
	require.Equal(t, 7, f.requests())
	require.Equal(t, []digest.Digest{blob.desc.Digest}, f.fetched())

	for _, held := range []func(*gate) answer{
		func(g *gate) answer { return g.hang },
		func(g *gate) answer { return g.stall },
	} {
		g := newGate()
		f.blob(blob.desc.Digest, held(g))
		done := make(chan []byte)
		go func() {
			_, body, _ := get() // the length tells
			done <- body
		}()
		<-g.reached
		require.Empty(t, done)
		close(g.open)
		require.Equal(t, blob.blob, <-done)
	}
}
