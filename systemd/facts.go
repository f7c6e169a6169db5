package systemd

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// Facts are what systemd knows of a service.
type Facts struct {
	Unit        string // its own name, which is not an alias
	LoadState   string // "loaded", "not-found", "masked", "bad-setting", …
	LoadError   string // why it could not be loaded
	ActiveState string // "active", "reloading", "inactive", "failed", "activating", "deactivating"
	SubState    string // "running", "exited", "auto-restart", …
	Result      string // of the last run: "success", "exit-code", "signal", "timeout", …
	ActiveSince time.Time
	Began       time.Time // it left being inactive or failed, so before anything of it ran

	MainPID        int    // 0: none
	NRestarts      int    // how often systemd restarted it by itself, since it was last started on purpose
	ExecMainCode   int    // how the main process ended: CLD_EXITED, CLD_KILLED, …; 0: it runs
	ExecMainStatus int    // its exit status or signal
	InvocationID   string // 32 hex digits, new with each start; "": it never ran
	Job            bool   // something is being done to it
	CanReload      bool
	NeedReload     bool // the file on disk is not what systemd has loaded
	Transient      bool // it has no unit file: somebody asked for it over D-Bus

	Type              string // "simple", "notify", "oneshot", …
	RemainAfterExit   bool   // it counts as active when its processes have ended
	RefuseManualStart bool
	RefuseManualStop  bool
	RestartDelay      time.Duration // RestartSec=: before systemd restarts it by itself
	StatusText        string        // what it says of itself by sd_notify(3)

	User        string   // "": root
	Group       string   // "": the user's
	Groups      []string // SupplementaryGroups=
	DynamicUser bool     // the user exists only while it runs
	Memory      uint64   // bytes; 0: unknown
}

// Facts returns the facts of a service. That there is no such unit is one of them. An
// error may match ErrUnreachable.
func (c *Conn) Facts(ctx context.Context, unit string) (Facts, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	p, err := c.dbus.GetAllPropertiesContext(ctx, unit)
	if err != nil {
		return Facts{}, fmt.Errorf("read unit %q: %w", unit, c.failed(ctx, err))
	}
	f := Facts{
		Unit:        cmp.Or(get[string](p, "Id"), unit),
		LoadState:   get[string](p, "LoadState"),
		ActiveState: get[string](p, "ActiveState"),
		SubState:    get[string](p, "SubState"),
		Result:      get[string](p, "Result"),

		MainPID:        int(get[uint32](p, "MainPID")),
		NRestarts:      int(get[uint32](p, "NRestarts")),
		ExecMainCode:   int(get[int32](p, "ExecMainCode")),
		ExecMainStatus: int(get[int32](p, "ExecMainStatus")),
		InvocationID:   hex.EncodeToString(get[[]byte](p, "InvocationID")),
		CanReload:      get[bool](p, "CanReload"),
		NeedReload:     get[bool](p, "NeedDaemonReload"),
		Transient:      get[bool](p, "Transient"),

		Type:              get[string](p, "Type"),
		RemainAfterExit:   get[bool](p, "RemainAfterExit"),
		RefuseManualStart: get[bool](p, "RefuseManualStart"),
		RefuseManualStop:  get[bool](p, "RefuseManualStop"),
		RestartDelay:      span(get[uint64](p, "RestartUSec")),
		StatusText:        get[string](p, "StatusText"),

		User:        get[string](p, "User"),
		Group:       get[string](p, "Group"),
		Groups:      get[[]string](p, "SupplementaryGroups"),
		DynamicUser: get[bool](p, "DynamicUser"),
		Memory:      get[uint64](p, "MemoryCurrent"),
	}
	if f.Memory == math.MaxUint64 { // not accounted
		f.Memory = 0
	}
	f.ActiveSince = moment(get[uint64](p, "ActiveEnterTimestamp"))
	f.Began = moment(get[uint64](p, "InactiveExitTimestamp"))
	if e := get[[]any](p, "LoadError"); len(e) == 2 {
		f.LoadError, _ = e[1].(string)
	}
	if j := get[[]any](p, "Job"); len(j) == 2 {
		id, _ := j[0].(uint32)
		f.Job = id != 0
	}
	if f.LoadState == "" {
		return Facts{}, fmt.Errorf("read unit %q: systemd did not say whether it is loaded", unit)
	}
	return f, nil
}

// moment returns a time of systemd's, in microseconds; 0: it never was.
func moment(at uint64) time.Time {
	if at == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(at)).UTC()
}

// span returns a time span of systemd's, in microseconds; one without an end is the longest.
func span(usec uint64) time.Duration {
	if usec > math.MaxInt64/1000 {
		return math.MaxInt64
	}
	return time.Duration(usec) * time.Microsecond
}

// get returns a property, the zero value where systemd has none of that name and type:
// only services have all of them.
func get[T any](p map[string]any, name string) T {
	v, _ := p[name].(T)
	return v
}

// Words says how the unit is, for an error or a status line.
func (f Facts) Words() string {
	text := f.ActiveState
	if f.SubState != "" && f.SubState != f.ActiveState {
		text += " (" + f.SubState + ")"
	}
	if end := f.ended(); end != "" {
		text += ", " + end
	}
	if f.NRestarts > 0 {
		times := fmt.Sprintf("%d times", f.NRestarts)
		if f.NRestarts == 1 {
			times = "once"
		}
		text += ", restarted by systemd " + times
	}
	return text
}

// ended says how the last run ended badly; "" when it did not.
func (f Facts) ended() string {
	switch f.Result {
	case "", "success":
		return ""
	case "start-limit-hit":
		return "started too often in a short time (start-limit-hit)"
	case "timeout":
		return "it took longer than the unit allows (timeout)"
	case "watchdog":
		return "it did not feed its watchdog (watchdog)"
	case "resources":
		return "systemd could not prepare what it needs (resources)"
	}
	how := ""
	switch f.ExecMainCode {
	case cldExited:
		how = fmt.Sprintf("its main process ended with status %d", f.ExecMainStatus)
	case cldKilled, cldDumped:
		how = fmt.Sprintf("its main process was ended by %s", unix.SignalName(unix.Signal(f.ExecMainStatus)))
	default:
		return "it failed (" + f.Result + ")"
	}
	return how + " (" + f.Result + ")"
}

// How a process ended, as in the field si_code of waitid(2).
const (
	cldExited = 1
	cldKilled = 2
	cldDumped = 3
)
