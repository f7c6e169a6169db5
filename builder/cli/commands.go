package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"makenot.work/sando/builder"
	"makenot.work/sando/internal/cli"
	"makenot.work/sando/internal/reason"
)

func (p *program) initialize() *cobra.Command {
	var req builder.InitRequest
	cmd := &cobra.Command{
		Use:   "init [DIR] --app NAME",
		Short: "Make keys, trust, a channel repo, a bucket and builder.toml",
		Long: `Make in DIR (default: here) all that a builder needs: keys/ with two root keys, a release
key and a channel key, keys/trust.json, the channel repo channels.git, the directory
bucket, and a commented builder.toml. Refuses when one of them is there already.`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.Flags().StringVar(&req.App, "app", "", "`NAME` of the app")
	cmd.Flags().StringVar(&req.Source, "source", "", "`URL` or directory of the source repository; can be filled in later")
	cmd.Flags().StringArrayVar(&req.Tiers, "tier", nil, "a `TIER`, the first one first (repeatable; default host, a, b)")
	if err := cmd.MarkFlagRequired("app"); err != nil {
		panic(err) // the flag is defined three lines above
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if req.Dir = "."; len(args) == 1 {
			req.Dir = args[0]
		}
		req.Passphrase = p.newPassphrase
		made, err := builder.Init(cmd.Context(), req)
		if err != nil {
			return err
		}
		return p.show(made, func() { p.printInit(made) })
	}
	return p.reports(cmd)
}

func (p *program) keygen() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "keygen NAME | --out FILE",
		Short: "Make one key pair, NAME.key and NAME.pub",
		Args:  cobra.MaximumNArgs(1),
	}
	cmd.Flags().StringVar(&out, "out", "", "write the private key to `FILE`, the public one beside it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (len(args) == 1) == (out != "") {
			return reason.Errorf(reason.Config, "give either NAME or --out FILE")
		}
		name := strings.TrimSuffix(out, ".key")
		if len(args) == 1 {
			name = args[0]
		}
		if base := filepath.Base(name); name == "" || strings.HasPrefix(base, ".") || strings.HasSuffix(name, "/") {
			return reason.Errorf(reason.Config, "%q is not a name for a key", name)
		}
		pass, err := p.newPassphrase(cmd.Context())
		if err != nil {
			return err
		}
		key, err := builder.Keygen(name, pass)
		if err != nil {
			return err
		}
		return p.show(key, func() {
			fmt.Fprintf(p.std.Out, "key id       %s\nprivate key  %s\npublic key   %s\n", key.Kid, key.Private, key.Public)
			fmt.Fprintln(p.std.Out, "It counts once a version of trust names it, signed by the root holders.")
		})
	}
	return p.reports(cmd)
}

func (p *program) release() *cobra.Command {
	var req builder.ReleaseRequest
	cmd := &cobra.Command{
		Use:   "release [--rev REV | --dir DIR]",
		Short: "Build a commit, sign it, publish it, advance the tiers that follow by themselves",
		Long: `Build a commit, stage and pack it, sign the manifest, publish the bundle, and advance the
tiers that fleet.toml asks to advance and channels.auto allows.

A version that is published already from the same commit stands and is not built again.
From another commit with other content it is refused: a version has one content.
A release that was interrupted is finished by running it again.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&req.Rev, "rev", "", "`REV`: commit id, tag or branch of the source repository (default: source.branch)")
	cmd.Flags().StringVar(&req.Dir, "dir", "", "release the checkout in `DIR` as it is, instead of the source repository")
	cmd.Flags().StringVar(&req.Version, "version", "", "the `VERSION` (default: what build.version prints)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		for _, name := range []string{"rev", "dir", "version"} {
			if f := cmd.Flags().Lookup(name); f.Changed && f.Value.String() == "" {
				return reason.Errorf(reason.Config, "--%s is empty", name)
			}
		}
		b, cfg, err := p.open(cmd.Context())
		if err != nil {
			return err
		}
		done, err := b.Release(cmd.Context(), req)
		if err != nil {
			return err
		}
		return p.show(done, func() { p.printRelease(cfg, done) })
	}
	return p.reports(cmd)
}

func (p *program) promote() *cobra.Command {
	var req builder.PromoteRequest
	cmd := &cobra.Command{
		Use:   "promote TIER [--version VERSION | --retry] [--propose]",
		Short: "Advance a tier to what the tier before it names, or to a version",
		Long: `Advance a tier to the version that the tier it follows names, whether or not the nodes there
run it already; or to --version, which may be an older one: that is how a tier is rolled
back. With --retry the tier names what it has with the next attempt: nodes on which it
failed try it once more. With --propose, or if fleet.toml asks for it, the signed state goes
to a branch, and merging the branch promotes.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.oneTier,
	}
	cmd.Flags().StringVar(&req.Version, "version", "", "a published `VERSION`, newer or older")
	cmd.Flags().BoolVar(&req.Propose, "propose", false, "push a branch to merge instead of the channel itself")
	cmd.Flags().BoolVar(&req.Retry, "retry", false, "name the same version once more: nodes on which it failed try it again")
	cmd.MarkFlagsMutuallyExclusive("version", "retry")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f := cmd.Flags().Lookup("version"); f.Changed && req.Version == "" {
			return reason.Errorf(reason.Config, "--version is empty")
		}
		req.Tier = args[0]
		b, cfg, err := p.open(cmd.Context())
		if err != nil {
			return err
		}
		done, err := b.Promote(cmd.Context(), req)
		if err != nil {
			return err
		}
		return p.show(done, func() { p.printAdvance(cfg, *done) })
	}
	return p.reports(cmd)
}

// signing is what the flags of sign say.
type signing struct {
	channel, branch, trust, key string
	push                        bool
}

func (p *program) sign() *cobra.Command {
	var f signing
	cmd := &cobra.Command{
		Use:   "sign VERSION | --channel TIER | --trust FILE",
		Short: "Add a signature to a manifest, a channel state or the next version of trust",
		Long: `Add the signature of one key, and say how many there are now of those that are needed.

VERSION, or VERSION@sha256:DIGEST: the manifest of a published version, by a release key.
--channel: the merged channel state of a tier, or with --branch a proposal, by a channel key.
--trust: the file of the next version of trust, by a root key given with --key; this needs
no builder.toml and no network. With --push, and then with or without --key, a complete one
goes into the channel repo.`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.Flags().StringVar(&f.channel, "channel", "", "sign the channel state of this `TIER`")
	cmd.Flags().StringVar(&f.branch, "branch", "", "with --channel: the `BRANCH` of a proposal")
	cmd.Flags().StringVar(&f.trust, "trust", "", "sign this `FILE`, a version of trust")
	cmd.Flags().BoolVar(&f.push, "push", false, "with --trust: put it into the channel repo, with all its signatures")
	cmd.Flags().StringVar(&f.key, "key", "", "`FILE` of the private key (default: that of the configuration)")
	if err := cmd.RegisterFlagCompletionFunc("channel", p.tiers); err != nil {
		panic(err) // the flag is defined above
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.check(args); err != nil {
			return err
		}
		done, err := p.signed(cmd.Context(), f, args)
		if err != nil {
			return err
		}
		return p.show(done, func() { p.printSigned(done) })
	}
	return p.reports(cmd)
}

func (f signing) check(args []string) error {
	kinds := len(args)
	for _, given := range []string{f.channel, f.trust} {
		if given != "" {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return reason.Errorf(reason.Config, "give one of VERSION, --channel TIER and --trust FILE")
	case f.branch != "" && f.channel == "":
		return reason.Errorf(reason.Config, "--branch goes with --channel")
	case f.push && f.trust == "":
		return reason.Errorf(reason.Config, "--push goes with --trust")
	case f.trust != "" && f.key == "" && !f.push:
		return reason.Errorf(reason.Config, "--trust wants --key FILE, a root key: no configuration names one")
	}
	return nil
}

func (p *program) signed(ctx context.Context, f signing, args []string) (*builder.Signed, error) {
	if f.trust != "" && f.key != "" {
		done, err := builder.SignTrust(ctx, f.trust, f.key, p.options())
		if err != nil || !f.push {
			return done, err
		}
	}
	b, _, err := p.open(ctx)
	switch {
	case err != nil:
		return nil, err
	case f.trust != "":
		return b.PushTrust(ctx, f.trust)
	case f.channel != "":
		return b.SignChannel(ctx, builder.ConsentRequest{Tier: f.channel, Branch: f.branch, Key: f.key})
	default:
		return b.SignManifest(ctx, args[0], f.key)
	}
}

func (p *program) mirror() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mirror [TIER…]",
		Short: "Copy trust and channels from the channel repo to the bucket",
		Long: `Copy what is merged in the channel repo to the bucket, for nodes with channels.source =
"bucket": all versions of trust, and the channels of the tiers given, or of all provisioned
tiers. What nodes would refuse, and what is older than the mirror, is refused; the other
tiers go on. It may be run at any time, by several at once, and again.`,
		ValidArgsFunction: p.tiers,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		b, _, err := p.open(cmd.Context())
		if err != nil {
			return err
		}
		done, err := b.Mirror(cmd.Context(), args)
		if done == nil {
			return err
		}
		if serr := p.show(done, func() { p.printMirror(done) }); serr != nil {
			return serr
		}
		return p.said(err)
	}
	return p.reports(cmd)
}

// said returns an error that a JSON object on standard output holds already in the form
// that ends the program with its code.
func (p *program) said(err error) error {
	if err == nil || !p.json {
		return err
	}
	fmt.Fprintf(p.std.Err, "builder: %s\n", cli.Printable(err.Error()))
	return cli.Exit(reason.Of(err))
}

func (p *program) verify() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify VERSION",
		Short: "Read a published version, and check all of it",
		Long: `Read every object of a published version and check it: the manifest's signatures under
the newest trust, sizes and hashes, and what is in the tarballs.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		b, _, err := p.open(cmd.Context())
		if err != nil {
			return err
		}
		found, err := b.Verify(cmd.Context(), args[0])
		if found == nil {
			return err
		}
		if serr := p.show(found, func() { p.printVerify(found) }); serr != nil {
			return serr
		}
		return p.said(err)
	}
	return p.reports(cmd)
}
