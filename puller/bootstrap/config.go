package bootstrap

import (
	"fmt"
	"strings"

	"makenot.work/sando/layout/bucket"
)

// config returns the text of /etc/sando/APP.toml, with these key files.
func (o *Options) config(c credentials) (string, error) {
	fields, err := o.fields()
	if err != nil {
		return "", err
	}
	w := &toml{}
	w.say("# What updates %s on this node, from where, and how it is restarted.", o.App)
	w.say("# `puller bootstrap` wrote it once; from now on it is yours. The daemon sees by itself when it")
	w.say("# changes. Every key is in docs/reference.md; `puller --app %s --dry-run` tries it.", o.App)
	w.say("")
	w.text("app", o.App)
	w.note("tier", quote(o.Tier), "whose channel this node follows")
	if o.Node != "" {
		w.note("node", quote(o.Node), "its name in a rollout; without it the host name")
	}
	if o.Root != "/opt/"+o.App {
		w.note("root", quote(o.Root), "releases/, current, .sando/")
	}
	o.channelsSection(w, c)
	o.storageSection(w, o.Storage, c)
	w.section("service")
	w.note("unit", quote(o.Unit), "restarted when a release is activated")
	if o.Health != "" {
		w.section("health")
		w.note("url", quote(o.Health), "a release is good while this answers 200 …")
		var list []string
		for _, f := range fields {
			list = append(list, f[0]+" = "+f[1])
		}
		w.note("json", "{ "+strings.Join(list, ", ")+" }", "… with these fields")
	}
	if o.EnvFile != "" {
		w.section("env")
		w.note("files", "["+quote(o.EnvFile)+"]", "as in EnvironmentFile= of the unit")
		w.say(`# required = ["DATABASE_URL"]    # what a release must find there, or it is not activated`)
	}
	return w.b.String(), nil
}

func (o *Options) channelsSection(w *toml, c credentials) {
	w.section("channels")
	if o.Channels.URL == Bucket {
		w.note("source", quote(Bucket), "the mirror in the storage; no git host is asked")
	} else {
		w.text("repo", o.Channels.URL)
		if o.Channels.Branch != "main" {
			w.text("branch", o.Channels.Branch)
		}
	}
	w.text("path", o.Channels.Path)
	w.text("token_file", c.token.file)
	w.text("ssh_key", c.sshKey)
	w.text("known_hosts", c.knownHosts)
	w.text("ca_file", o.Channels.CAFile)
	if o.MinSeq > 0 {
		w.note("min_seq", fmt.Sprint(o.MinSeq), "an older state of the channel is not believed")
	}
}

func (o *Options) storageSection(w *toml, s bucket.Config, c credentials) {
	w.section("storage")
	w.text("url", s.URL)
	w.text("endpoint", s.Endpoint)
	w.text("region", s.Region)
	w.flag("path_style", s.PathStyle)
	w.flag("anonymous", s.Anonymous)
	w.text("access_key_file", c.access.file)
	w.text("secret_key_file", c.secret.file)
	w.text("ca_file", s.CAFile)
}

// toml writes a configuration file. What has no value is left out.
type toml struct{ b strings.Builder }

func (w *toml) say(format string, args ...any) { fmt.Fprintf(&w.b, format+"\n", args...) }

func (w *toml) section(name string) { w.say("\n[%s]", name) }

func (w *toml) text(key, value string) {
	if value != "" {
		w.say("%s = %s", key, quote(value))
	}
}

func (w *toml) flag(key string, value bool) {
	if value {
		w.say("%s = true", key)
	}
}

// note writes a line with a comment; the value is written as it is.
func (w *toml) note(key, value, comment string) {
	w.say("%-32s # %s", key+" = "+value, comment)
}

// quote returns a basic string of TOML. The text has no control characters.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
