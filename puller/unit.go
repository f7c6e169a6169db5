package puller

import (
	"context"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/puller/service"
	"makenot.work/sando/systemd"
)

// UnitStatus is what systemd says of the app's unit.
type UnitStatus struct {
	Name       string     `json:"name"`
	Load       string     `json:"load"`           // "loaded", "not-found", "masked", …
	Active     string     `json:"active"`         // "active", "failed", …
	Sub        string     `json:"sub"`            // "running", "auto-restart", …
	Result     string     `json:"result"`         // of its last run: "success", "exit-code", …
	Since      canon.Time `json:"since,omitzero"` // it is active
	PID        int        `json:"pid,omitempty"`
	Restarts   int        `json:"restarts"` // by systemd itself
	Invocation string     `json:"invocation,omitempty"`
	User       string     `json:"user,omitempty"`
	Memory     int64      `json:"memory,omitempty"` // bytes
	Words      string     `json:"words"`
}

// askTimeout is how long status waits for systemd.
const askTimeout = 5 * time.Second

// describeUnit adds what systemd says of the app's unit.
func (c *cycle) describeUnit(ctx context.Context, s *Status) {
	u, ok := c.service.(*service.Unit)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	f, err := u.Facts(ctx)
	if err != nil {
		c.warn("%s", err)
		return
	}
	s.Unit = &UnitStatus{
		Name: u.Name, Load: f.LoadState, Active: f.ActiveState, Sub: f.SubState, Result: f.Result,
		PID: f.MainPID, Restarts: f.NRestarts, Invocation: f.InvocationID, User: f.User, Memory: int64(f.Memory), Words: f.Words(),
	}
	if f.ActiveState == "active" {
		s.Unit.Since = canon.At(f.ActiveSince)
	}
	if f.ActiveState == "active" && f.MainPID != 0 && c.st.Intent == nil && c.cfg.Service.Action == string(systemd.Restart) && f.ActiveSince.Before(c.cur.Changed) && c.cur.Version != "" {
		c.warn("%s was started before %s became live, so another release may be what answers; `systemctl restart %[1]s` starts this one", u.Name, c.cur.Version)
	}
	switch {
	case f.LoadState != "loaded":
		c.warn("%s", &systemd.UnitError{Unit: u.Name, LoadState: f.LoadState, Detail: f.LoadError})
	case f.Fit() != nil:
		c.warn("%s", f.Fit())
	case f.NeedReload:
		c.warn("the unit file of %q has changed on disk since systemd read it; `systemctl daemon-reload` reads it again", u.Name)
	}
}

// activeTimer returns the timer that runs this app's puller; "" where none does, or where
// nobody can be asked.
func (c *cycle) activeTimer(ctx context.Context) string {
	if !systemd.Booted() {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := systemd.Connect(ctx)
	if err != nil {
		return ""
	}
	defer conn.Close()
	name := "puller-once@" + c.cfg.App + ".timer"
	if f, err := conn.Facts(ctx, name); err != nil || f.ActiveState != "active" {
		return ""
	}
	return name
}
