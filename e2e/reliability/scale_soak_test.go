//go:build soak

package reliability

import "time"

const second = time.Second

const atOnce = 16
