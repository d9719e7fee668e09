package runner

import (
	"io/fs"
	"os"
)

const dontFollow = 0

// tempDir names the user's folder for temporary files.
func tempDir(Env) string { return os.TempDir() }

// private checks nothing: Windows has no modes, and what is made under the
// user's folder for temporary files is the user's.
func private(fs.FileInfo, string) error { return nil }
