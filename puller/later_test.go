package puller

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"makenot.work/sando/internal/later"
	"makenot.work/sando/internal/reason"
)

// What a git host asks for reaches who decides when to ask again.
func TestRetryAfterOfGitHost(t *testing.T) {
	w := newWorld(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "120")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	t.Cleanup(server.Close)
	w.puller.cfg.Channels.Repo = server.URL + "/c.git"
	_, err := w.puller.Step(t.Context(), Options{})
	if reason.Of(err) != reason.IO || later.Of(err) != 2*time.Minute {
		t.Errorf("asks to wait for %s: %v", later.Of(err), err)
	}
}
