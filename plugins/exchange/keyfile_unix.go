//go:build unix

package exchange

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// dontFollow opens no link, and waits for nobody.
const dontFollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// CheckPrivate checks that nobody but the user can read or change what info is of.
func CheckPrivate(info fs.FileInfo, path string) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) != os.Getuid() {
		return fmt.Errorf("%s belongs to another user", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is open to other users: mode %04o", path, info.Mode().Perm())
	}
	return nil
}
