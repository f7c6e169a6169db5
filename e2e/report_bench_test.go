package e2e

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/layout/report"
	"makenot.work/sando/puller/reporter"
)

// BenchmarkReport measures what a report costs a daemon, whose connection stays open: requests,
// bytes on the wire with all headers, and processor time.
func BenchmarkReport(b *testing.B) {
	server := minio.Start(b, minio.Options{})
	name := server.Bucket(b, minio.Private)
	to, err := url.Parse(server.Endpoint)
	must(b, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	var requests, bytes atomic.Int64
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		proxy.ServeHTTP(w, r)
	}))
	front.Listener = &counted{front.Listener, &bytes}
	front.Start()
	defer front.Close()

	store, err := bucket.Open(b.Context(), bucket.Config{
		URL: "s3://" + name, Endpoint: front.URL, Region: server.Region,
		AccessKeyFile: server.Root.AccessKeyFile, SecretKeyFile: server.Root.SecretKeyFile,
	})
	must(b, err)
	dir, err := node.Open(b.TempDir() + "/node")
	must(b, err)
	now := time.Now()
	w := &reporter.Reporter{
		Bucket: store, Ready: func() error { return nil }, Dir: dir, Heartbeat: 15 * time.Minute, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return now }, Chance: func() float64 { return 0 }, Record: func(node.Event) {},
	}
	rel := &report.Release{Version: "1.2.3", Manifest: layout.Sum(nil), Since: canon.Now()}
	said := &report.Report{
		App: "mnw", Node: "alpha-west-1", Tier: "b", Platform: "linux/amd64", Puller: "v1.2.3", Desired: rel, Running: rel, LastGood: rel,
		Healthy: true, Reason: reason.Current, Counter: &report.Counter{Trust: 1, Seq: 1780455236000}, Blocked: []report.Release{},
	}
	w.Report(b.Context(), said)
	requests.Store(0)
	bytes.Store(0)
	before, n := cpu(), 0
	for b.Loop() {
		now = now.Add(15 * time.Minute)
		w.Report(b.Context(), said)
		n++
	}
	if requests.Load() != int64(3*n) {
		b.Fatalf("%d requests for %d reports", requests.Load(), n)
	}
	b.ReportMetric(float64(requests.Load())/float64(n), "requests/report")
	b.ReportMetric(float64(bytes.Load())/float64(n), "bytes/report")
	b.ReportMetric((cpu()-before)/float64(n), "cpu-ms/report") // the proxy's as well
}

// counted counts the bytes of all connections, both ways.
type counted struct {
	net.Listener
	n *atomic.Int64
}

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &countedConn{c, l.n}, err
}

type countedConn struct {
	net.Conn
	n *atomic.Int64
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.n.Add(int64(n))
	return n, err
}
