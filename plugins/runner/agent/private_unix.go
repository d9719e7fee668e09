//go:build unix

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"github.com/brevet-dev/brevet/plugins/exchange"
)

// checkPrivate refuses a folder that another user owns or may enter.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir) // not Stat: a link could lead anywhere
	if err != nil {
		return fmt.Errorf("looking at the agent's folder: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s for the agent is not a folder", dir)
	}
	return exchange.CheckPrivate(info, dir)
}

// checkPeer refuses another user at the other end of a connection.
func checkPeer(conn net.Conn) error {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("a connection that is none of a socket's")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("asking who is at the other end: %w", err)
	}
	var uid int
	var problem error
	if err := raw.Control(func(fd uintptr) { uid, problem = peer(int(fd)) }); err != nil {
		return fmt.Errorf("asking who is at the other end: %w", err)
	}
	if problem != nil {
		return fmt.Errorf("asking who is at the other end: %w", problem)
	}
	if uid != os.Getuid() {
		return fmt.Errorf("another user (%d) is at the other end of the agent's socket", uid)
	}
	return nil
}

// isGone reports whether err says that nobody listens there.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}
