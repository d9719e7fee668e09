//go:build !linux && !darwin

package agent

import "errors"

var errUnsupported = errors.New("brevet agent is not supported on this system: it cannot tell who is at the other end of a socket")

func peer(int) (uid int, err error) { return 0, errUnsupported }
