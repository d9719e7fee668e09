//go:build unix

package runner

import (
	"io/fs"
	"os"
	"syscall"
)

// tempDir names the folder for temporary files.
func tempDir(env Env) string {
	if dir := env.Get("TMPDIR"); dir != "" {
		return dir
	}
	return "/tmp"
}

// isOwn reports whether what info is of belongs to this user.
func isOwn(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Getuid()
}
