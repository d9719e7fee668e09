//go:build unix

package extension

import (
	"fmt"
	"os"
	"syscall"
)

// checkPrivate refuses a folder that another user owns or may enter.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir) // not Stat: a link could lead anywhere
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder", dir)
	case !ok || int(stat.Uid) != os.Getuid():
		return fmt.Errorf("%s belongs to another user", dir)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s is open to other users: mode %04o", dir, info.Mode().Perm())
	}
	return nil
}
