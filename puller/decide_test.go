package puller

import (
	"strings"
	"testing"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/schedule"
)

var (
	noon = time.Date(2026, 6, 3, 12, 0, 0, 0, time.UTC)
	m1   = layout.Sum([]byte("manifest of 1.0"))
	m2   = layout.Sum([]byte("manifest of 2.0"))
)

// settled is a node that runs 1.0 and whose channel names 2.0: the one case that acts.
func settled() facts {
	st := node.NewState()
	st.Running = &node.Release{Version: "1.0", Manifest: m1, Since: canon.At(noon.Add(-time.Hour))}
	st.LastGood = st.Running
	return facts{
		Now: noon, Node: "alpha", Tier: "b", Current: "1.0", State: st, Window: schedule.Always(),
		Channel: &channels.Channel{Version: "2.0", Manifest: m2, Attempt: 1, Rollout: 100, Issued: canon.At(noon.Add(-time.Minute))},
		Revoked: func(layout.Digest) bool { return false },
	}
}

func TestDecide(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*facts)
		act    string // the version to activate
		code   reason.Code
		text   string
	}{
		"news":                       {func(*facts) {}, "2.0", "", ""},
		"current":                    {func(f *facts) { f.Channel.Version, f.Channel.Manifest = "1.0", m1 }, "", reason.Current, `runs 1.0, as channel "b" says`},
		"nothing accepted":           {func(f *facts) { f.Channel = nil }, "", reason.Stale, "`builder promote b`"},
		"first install":              {func(f *facts) { f.Current, f.State = "", node.NewState() }, "2.0", "", ""},
		"same version, new manifest": {func(f *facts) { f.Channel.Version = "1.0" }, "1.0", "", ""},
		"revoked":                    {func(f *facts) { f.Revoked = func(d layout.Digest) bool { return d == m2 } }, "", reason.Policy, "is revoked"},
		"revoked but running": {func(f *facts) {
			f.Channel.Version, f.Channel.Manifest = "1.0", m1
			f.Revoked = func(d layout.Digest) bool { return d == m1 }
		}, "", reason.Current, "runs 1.0"},
		"halted":                 {func(f *facts) { f.Channel.Rollout = 0 }, "", reason.Halted, "1.0 stays"},
		"halted, nothing runs":   {func(f *facts) { f.Channel.Rollout = 0; f.Current, f.State = "", node.NewState() }, "", reason.Halted, "nothing runs"},
		"halted, now":            {func(f *facts) { f.Channel.Rollout = 0; f.Ignore = true }, "", reason.Halted, ""},
		"rollout without it":     {func(f *facts) { f.Channel.Rollout = 1 }, "", reason.Rollout, "`puller --now`"},
		"rollout, now":           {func(f *facts) { f.Channel.Rollout = 1; f.Ignore = true }, "2.0", "", ""},
		"rollout, first install": {func(f *facts) { f.Channel.Rollout = 1; f.Current, f.State = "", node.NewState() }, "2.0", "", ""},
		"expired":                {func(f *facts) { f.Channel.Expires = canon.At(noon.Add(-time.Second)) }, "", reason.Stale, "2.0 is not activated"},
		"expires later":          {func(f *facts) { f.Channel.Expires = canon.At(noon.Add(time.Second)) }, "2.0", "", ""},
		"expired, clock is behind": {func(f *facts) {
			f.Channel.Issued, f.Channel.Expires = canon.At(noon.Add(time.Hour)), canon.At(noon.Add(2*time.Hour))
		}, "2.0", "", ""},
		"blocked": {func(f *facts) {
			f.State.Blocked = []node.Block{{Version: "2.0", Manifest: m2, Attempt: 1, Cause: "exit status 2"}}
		}, "", reason.Blocked, "it failed with: exit status 2"},
		"blocked, next attempt": {func(f *facts) {
			f.State.Blocked = []node.Block{{Version: "2.0", Manifest: m2, Attempt: 1}}
			f.Channel.Attempt = 2
		}, "2.0", "", ""},
		"degraded": {func(f *facts) {
			f.State.Blocked = []node.Block{{Version: "2.0", Manifest: m2, Attempt: 1}}
			f.State.Degraded = &f.State.Blocked[0]
		}, "", reason.Degraded, "so did the way back"},
		"degraded, another target": {func(f *facts) {
			f.State.Degraded = &node.Block{Version: "1.5", Manifest: m1, Attempt: 1}
		}, "2.0", "", ""},
		"pinned":             {func(f *facts) { f.Pin = &node.Pin{Release: "1.0", At: 7} }, "", reason.Pinned, "`puller --unpin`"},
		"pinned elsewhere":   {func(f *facts) { f.Pin = &node.Pin{Release: "0.9", At: 7} }, "0.9", "", ""},
		"pin ignores a halt": {func(f *facts) { f.Pin = &node.Pin{Release: "2.0", At: 7}; f.Channel.Rollout = 0 }, "2.0", "", ""},
		"pin ignores a block": {func(f *facts) {
			f.Pin = &node.Pin{Release: "2.0", At: 7}
			f.State.Blocked = []node.Block{{Version: "2.0", Manifest: m2, Attempt: 1}}
		}, "2.0", "", ""},
		"pin failed": {func(f *facts) {
			f.Pin = &node.Pin{Release: "2.0", At: 7}
			f.State.Blocked = []node.Block{{Version: "2.0", Manifest: m2, Attempt: 7}}
		}, "", reason.Blocked, "`puller --pin 2.0` tries once more"},
		"pin names other content": {func(f *facts) { f.Pin = &node.Pin{Release: "1.0", Manifest: m2, At: 7} }, "1.0", "", ""},
		"pin needs no channel":    {func(f *facts) { f.Pin = &node.Pin{Release: "2.0", At: 7}; f.Channel = nil }, "2.0", "", ""},
		"first install unhealthy": {func(f *facts) { unhealthyFirst(f, time.Minute) }, "", reason.Unhealthy, "`puller --now`"},
		"its time has come":       {func(f *facts) { unhealthyFirst(f, 0) }, "1.0", "", ""},
		"or a person asks":        {func(f *facts) { unhealthyFirst(f, time.Minute); f.Ignore = true }, "1.0", "", ""},
		"or the channel moved on": {func(f *facts) { unhealthyFirst(f, time.Minute); f.Channel.Version, f.Channel.Manifest = "2.0", m2 }, "2.0", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := settled()
			c.change(&f)
			d := decide(f)
			if d.Act != (c.act != "") || d.Target.Version != c.act || d.Reason != c.code || !strings.Contains(d.Message, c.text) {
				t.Errorf("got %+v, want act %q, reason %q, …%s…", d, c.act, c.code, c.text)
			}
		})
	}
}

func unhealthyFirst(f *facts, in time.Duration) {
	f.Channel.Version, f.Channel.Manifest = "1.0", m1
	f.State.Retry = &node.Retry{Count: 1, Next: canon.At(noon.Add(in))}
}

func TestRevocationOfWhatRunsIsAWarning(t *testing.T) {
	f := settled()
	f.Channel.Version, f.Channel.Manifest = "1.0", m1
	f.Revoked = func(d layout.Digest) bool { return d == m1 }
	if d := decide(f); d.Reason != reason.Current || !strings.Contains(d.Warning, "is revoked") {
		t.Errorf("got %+v", d)
	}
}

func TestExpiryOfWhatRunsIsAWarning(t *testing.T) {
	f := settled()
	f.Channel.Version, f.Channel.Manifest = "1.0", m1
	f.Channel.Expires = canon.At(noon.Add(-time.Second))
	if d := decide(f); d.Reason != reason.Current || !strings.Contains(d.Warning, "expired at") {
		t.Errorf("got %+v", d)
	}
}

// TestDiagnose is the recovery table, row by row.
func TestDiagnose(t *testing.T) {
	running := func(v string, i *node.Intent) *node.State {
		s := node.NewState()
		if v != "" {
			s.Running = &node.Release{Version: v}
		}
		s.Intent = i
		return s
	}
	sw := func(from, via, to string) *node.Intent {
		return &node.Intent{Phase: node.Switching, From: from, Via: via, To: to}
	}
	back := &node.Intent{Phase: node.RollingBack, From: "1", Via: "1", To: "2"}
	for name, c := range map[string]struct {
		st   *node.State
		cur  node.Current
		want finding
	}{
		"fresh":                              {running("", nil), node.Current{}, fine},
		"idle":                               {running("1", nil), node.Current{Version: "1"}, fine},
		"state lost":                         {running("", nil), node.Current{Version: "1"}, fine},
		"odd":                                {running("1", nil), node.Current{Odd: "a file"}, odd},
		"odd in the middle":                  {running("1", sw("1", "1", "2")), node.Current{Odd: "a file"}, odd},
		"missing":                            {running("1", nil), node.Current{}, lost},
		"dangling":                           {running("1", nil), node.Current{Dangling: "1"}, lost},
		"dangling, nothing known":            {running("", nil), node.Current{Dangling: "1"}, lost},
		"missing in the middle":              {running("1", sw("1", "1", "2")), node.Current{}, lost},
		"first install, before its swap":     {running("", sw("", "", "1")), node.Current{}, lost},
		"changed by hand":                    {running("1", nil), node.Current{Version: "2"}, byHand},
		"changed by hand in the middle":      {running("1", sw("1", "1", "2")), node.Current{Version: "3"}, byHand},
		"changed by hand on the way back":    {running("1", back), node.Current{Version: "3"}, byHand},
		"before the swap":                    {running("1", sw("1", "1", "2")), node.Current{Version: "1"}, notSwapped},
		"after the swap":                     {running("1", sw("1", "1", "2")), node.Current{Version: "2"}, switched},
		"first install, after its swap":      {running("", sw("", "", "1")), node.Current{Version: "1"}, switched},
		"probation left, before the swap":    {running("1", sw("1", "2", "3")), node.Current{Version: "2"}, notSwapped},
		"probation left for what ran before": {running("1", sw("1", "2", "1")), node.Current{Version: "1"}, switched},
		"the same, before the swap":          {running("1", sw("1", "2", "1")), node.Current{Version: "2"}, notSwapped},
		"going back, before the swap":        {running("1", back), node.Current{Version: "2"}, goingBack},
		"going back, after the swap":         {running("1", back), node.Current{Version: "1"}, goingBack},
	} {
		t.Run(name, func(t *testing.T) {
			if got := diagnose(c.st, c.cur); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestSuperfluous(t *testing.T) {
	at := func(i int) time.Time { return noon.Add(time.Duration(i) * time.Hour) }
	all := []held{{"5", at(5), false, false}, {"1", at(1), false, false}, {"0", at(0), true, false}, {"3", at(3), false, false}, {"2", at(2), false, false}, {"4", at(4), false, false}}
	for _, c := range []struct {
		keep   []string
		retain int
		want   string
	}{
		{nil, 3, "1 2"}, {[]string{"1"}, 3, "2"}, {nil, 9, ""}, {nil, 1, "1 2 3 4"}, {[]string{"1", "2"}, 3, ""}, {[]string{"5"}, 5, ""},
	} {
		keep := map[string]bool{}
		for _, v := range c.keep {
			keep[v] = true
		}
		if got := strings.Join(superfluous(all, keep, c.retain), " "); got != c.want {
			t.Errorf("retain %d, keep %v: removes %q, want %q", c.retain, c.keep, got, c.want)
		}
	}
	for i := range all {
		all[i].Good = all[i].Version != "5"
	}
	if got := strings.Join(superfluous(all, nil, 3), " "); got != "5 1" {
		t.Errorf("where the newest failed it removes %q", got)
	}
}

func TestParseOrder(t *testing.T) {
	v, d, err := ParseOrder("0.9.5@" + string(m1))
	if v != "0.9.5" || d != m1 || err != nil {
		t.Errorf("got %s, %s, %v", v, d, err)
	}
	for _, bad := range []string{"", "../x", "0.9.5@", "0.9.5@sha256:12", "@" + string(m1)} {
		if _, _, err := ParseOrder(bad); reason.Of(err) != reason.Config {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}
