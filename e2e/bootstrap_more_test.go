package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	puller "makenot.work/sando/puller/cli"
)

// What a kept configuration says otherwise of storage and channels is said last, with what mends
// it; the line of another node is refused.
func bootstrapOtherwise(t *testing.T, b *bare) {
	const file = "/etc/sando/mnw.toml"
	config, before := b.Read(t, file), b.tree(t, true)
	const other = `puller: config: /etc/sando/mnw.toml was there already, and counts as it is. It says storage.url = "file:///srv/bucket", and this command "file:///srv/other": ` +
		"if this command is right, `mv /etc/sando/mnw.toml /etc/sando/mnw.toml.old`, and run it again\n"
	r := b.try(t, "--storage", "file:///srv/other")
	if r.Code != 2 || !strings.HasSuffix(r.Err, other) || !strings.Contains(r.Out, "(tier host): runs 1.1.0") {
		t.Errorf("exit code %d\n%s%s", r.Code, r.Out, r.Err)
	}
	var report puller.Bootstrapped
	r = b.try(t, "--storage", "file:///srv/other", "--json")
	if err := json.Unmarshal([]byte(r.Out), &report); err != nil || r.Code != 2 || !strings.Contains(other, report.Otherwise) || report.Otherwise == "" || report.Now == nil || report.Now.Running.Version != "1.1.0" {
		t.Errorf("exit code %d, %v\n%s%s", r.Code, err, r.Out, r.Err)
	}
	const mend = `sed -i 's/^[[:space:]]*tier[[:space:]]*=.*/tier = "a"/' /etc/sando/mnw.toml`
	r = b.try(t, "--tier", "a")
	if want := `puller: config: /etc/sando/mnw.toml says tier = "host", and this command "a": give --tier host, or, if this command is right, ` + "`" + mend + "`, and run it again; nothing was changed\n"; r.Code != 2 || r.Err != want {
		t.Errorf("exit code %d\n%s%s\nwant %s", r.Code, r.Out, r.Err, want)
	}
	b.unchanged(t, before)
	b.Run(t, "sh", "-c", mend)
	if got := b.Read(t, file); !strings.Contains(got, "\ntier = \"a\"\n") || strings.Count(got, "\n") != strings.Count(config, "\n") {
		t.Errorf("mended:\n%s", got)
	}
}

// A cycle is done whenever one is missing, and what runs then is the last line.
func bootstrapMissing(t *testing.T, b *bare) {
	const runs = "as wanted\n"
	// A new configuration, with the daemon at work by an older one.
	b.reset(t)
	b.must(t, "--tier", "b")
	b.Run(t, "rm", "/etc/sando/mnw.toml")
	out := b.must(t)
	if !strings.Contains(out, "  - looked for the first update, as `puller --app mnw` does\n") || !strings.HasSuffix(out, runs) {
		t.Errorf("with a new configuration:\n%s", out)
	}
	b.answers(t, "1.1.0")
	// An update that was stopped in its probation.
	b.reset(t)
	r := b.Try(t, "timeout", append([]string{"-s", "INT", "4", "env", "SANDO__HEALTH__STABLE_FOR=60s"}, b.line("/srv/puller")[1:]...)...)
	if want := "puller: io: stopped by a signal: what was done stays; the same command, run again, goes on with the rest\n"; !strings.HasSuffix(r.Err, want) {
		t.Errorf("stopped:\n%s%s", r.Out, r.Err)
	}
	if out := b.must(t); !strings.Contains(out, "  - saw the update to 1.1.0 through, as `puller --app mnw` does\n") || !strings.HasSuffix(out, runs) || strings.Contains(out, "warning  node") {
		t.Errorf("after a stop:\n%s", out)
	}
	if strings.Contains(r.Err, "msg=") {
		t.Errorf("log lines among what is done:\n%s", r.Err)
	}
}
