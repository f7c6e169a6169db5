package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/node"
)

// reportTime is how long the bucket is waited for about reports.
const reportTime = 10 * time.Second

// reports looks whether this node can say how it is, and can write nothing else. Reports guard
// the other tiers, and keep no update of this one back; that their credential can do no more
// guards all of them.
func (e *examiner) reports(ctx context.Context) []Check {
	r := e.cfg.Report
	if !r.Enabled {
		return []Check{ok("reports", "off")}
	}
	st, err := e.dir.Reporting()
	if err != nil {
		st = nil // a puller makes it anew, or cannot read it, which is told by others
	}
	if st != nil && st.Namesake.IsThere(e.now) {
		return []Check{failed("reports", reason.Policy, fmt.Sprintf("another machine reports as %q, last at %s: one of two has this name wrongly, and which is rolled out to goes by it", e.cfg.Node, st.Namesake.At.Format(canon.TimeLayout)),
			do("set `node` in %s, here or there, to a name of its own", e.o.File))}
	}
	b, keys, err := e.reporting(ctx)
	if err != nil {
		return []Check{failed("reports", reason.Of(err), err.Error(), do("correct [report] in %s", e.o.File))}
	}
	ctx, cancel := context.WithTimeout(ctx, reportTime)
	defer cancel()
	key := layout.ReportKey(e.cfg.App, e.cfg.Node)
	may, err := bucket.MayWrite(ctx, b, key)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return []Check{e.reported(st)}
	case err != nil:
		c := e.judge(asked{name: "reports", where: "storage", url: e.endpoint(), keys: keys}, err)
		if c.Name != "reports" {
			return []Check{skip("reports", "the "+c.Name), c}
		}
		return []Check{c}
	case !may:
		return []Check{failed("reports", reason.Config, fmt.Sprintf("the credential in %s may not write this node's report, %s", said(keys), key), do("let it do s3:GetObject and s3:PutObject on %s/%s", e.place(), key))}
	}
	// Of a name that nobody reads: a server that ignores conditions stores something there.
	for _, other := range []string{layout.ChannelKey(e.cfg.App, "doctor-"+strings.ToLower(rand.Text()[:16])), layout.ReleaseKey(e.cfg.App, "doctor-"+rand.Text(), "nothing")} {
		may, err := bucket.MayWrite(ctx, b, other)
		if err != nil || !may {
			continue // that the bucket is there was seen
		}
		return []Check{failed("reports", reason.Policy, fmt.Sprintf("the credential in %s may write more than this node's report: also below %s", said(keys), strings.Join(strings.Split(other, "/")[:2], "/")+"/"),
			do("let it do s3:PutObject on %s/%s and on nothing else", e.place(), key))}
	}
	return []Check{e.reported(st)}
}

// reporting returns where reports go, and the files with the keys for that.
func (e *examiner) reporting(ctx context.Context) (bucket.Bucket, []string, error) {
	r := e.cfg.Report
	if r.AccessKeyFile == "" {
		b, err := bucket.Open(ctx, bucket.Config(e.cfg.Storage))
		return b, e.storageKeys(), err
	}
	b, err := bucket.OpenWith(ctx, bucket.Config(e.cfg.Storage), bucket.Keys{Section: "report", AccessKeyFile: r.AccessKeyFile, SecretKeyFile: r.SecretKeyFile})
	return b, []string{r.AccessKeyFile, r.SecretKeyFile}, err
}

// said names the files of a credential.
func said(keys []string) string {
	if len(keys) == 0 {
		return "use"
	}
	return keys[0]
}

// place is the bucket, with the prefix, as policies name it.
func (e *examiner) place() string {
	return "arn:aws:s3:::" + strings.Trim(strings.TrimPrefix(e.cfg.Storage.URL, "s3://"), "/")
}

// reported is how the last report went.
func (e *examiner) reported(st *node.Reporting) Check {
	switch {
	case st == nil || st.Written.IsZero() && st.Problem == nil:
		return ok("reports", "none was written so far")
	case st.Problem != nil:
		return warning("reports", fmt.Sprintf("the last report was not written, and is tried again at %s: %s", st.Problem.Next.Format(canon.TimeLayout), st.Problem.Cause), do("mend that, as it says; updates go on without"))
	}
	return ok("reports", "the last one was written at %s", st.Written.Format(canon.TimeLayout))
}
