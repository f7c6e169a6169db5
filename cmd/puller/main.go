// Command puller makes a node run what its tier's channel says. See package
// makenot.work/sando/puller for what a cycle does, and docs/reference.md for every
// flag and configuration key.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"makenot.work/sando/internal/cli"
	puller "makenot.work/sando/puller/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(puller.Run(ctx, os.Args[1:], cli.OS()))
}
