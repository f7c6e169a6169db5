// Command builder turns a commit into a signed bundle and advances channels. See
// package builder, and builder --help.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	buildercli "makenot.work/sando/builder/cli"
	"makenot.work/sando/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(buildercli.Run(ctx, os.Args[1:], cli.OS()))
}
