//go:build !soak

package reliability

import "time"

// second is a tenth of one: cases that take minutes on a server take seconds here.
const second = time.Second / 10

// atOnce is how many cases do something at the same time. Most of it is waiting.
const atOnce = 8
