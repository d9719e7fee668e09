package runner

import "os"

// tempDir names the user's folder for temporary files.
func tempDir(Env) string { return os.TempDir() }
