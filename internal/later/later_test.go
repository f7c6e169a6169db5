package later

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	now := time.Date(2026, 6, 3, 2, 53, 56, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "2147483647": 2147483647 * time.Second, "-7": 0, "1e3": 0, "99999999999999": 0,
		now.Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second,
		now.Add(-time.Hour).Format(http.TimeFormat):       0,
		"soon": 0,
	} {
		if got := Parse(s, now); got != want {
			t.Errorf("Parse(%q) = %s, want %s", s, got, want)
		}
	}
}

func TestOf(t *testing.T) {
	plain := errors.New("503")
	wish := &Wish{plain, time.Minute}
	for _, c := range []struct {
		err  error
		want time.Duration
	}{
		{nil, 0}, {plain, 0}, {wish, time.Minute}, {fmt.Errorf("poll: %w", wish), time.Minute}, {errors.Join(plain, wish), time.Minute},
	} {
		if got := Of(c.err); got != c.want {
			t.Errorf("of %v: %s, want %s", c.err, got, c.want)
		}
	}
	if !errors.Is(wish, plain) || wish.Error() != "503" {
		t.Errorf("it is %v", wish)
	}
}
