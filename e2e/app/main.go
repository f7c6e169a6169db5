// Command app is the app that the demo deploys, called hello: a small HTTP server and
// the page that belongs to it.
//
//	ADDR=127.0.0.1:8080 hello
//
//	GET /            static/index.html
//	GET /api/health  {"status":"operational","version":"1.0.0"}
//
// The version is in the program. The page is in the directory static beside the
// program: a release holds both, so they always belong together.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"io/fs"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

//go:embed VERSION
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv("ADDR")); err != nil {
		log.Println("hello:", err)
		os.Exit(1)
	}
}

// run serves on addr until ctx ends.
func run(ctx context.Context, addr string) error {
	if addr == "" {
		return errors.New("no address to listen on is set")
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	log.Printf("hello %s listens on %s", release(), addr)
	srv := &http.Server{
		Addr:              addr,
		Handler:           handler(os.DirFS(filepath.Join(filepath.Dir(program), "static"))),
		ReadHeaderTimeout: 5 * time.Second,
	}
	stopped := make(chan error, 1)
	defer context.AfterFunc(ctx, func() { stopped <- srv.Close() })()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

func release() string { return strings.TrimSpace(version) }

func handler(static fs.FS) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(static))
	mux.HandleFunc("GET /api/health", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer := map[string]string{"status": "operational", "version": release()}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			log.Println("hello: answer:", err)
		}
	})
	return mux
}
