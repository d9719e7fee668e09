package runner

import (
	"os"

	"golang.org/x/sys/unix"
)

// memoryDir names a folder that is kept in memory: the user's own of the session,
// or that of POSIX shared memory. Where there is none it is the folder for
// temporary files.
func memoryDir(env Env) string {
	for _, dir := range []string{env.Get("XDG_RUNTIME_DIR"), "/dev/shm"} {
		if dir != "" && inMemory(dir) && isWritable(dir) {
			return dir
		}
	}
	return tempDir(env)
}

// inMemory reports whether what is written to the folder dir stays in memory.
func inMemory(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && (fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC)
}

// isWritable tries it: a mode does not tell of a file system that is read only.
func isWritable(dir string) bool {
	probe, err := os.MkdirTemp(dir, "brevet-")
	return err == nil && os.Remove(probe) == nil
}
