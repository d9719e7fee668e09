//go:build unix

package runner

// tempDir names the folder for temporary files.
func tempDir(env Env) string {
	if dir := env.Get("TMPDIR"); dir != "" {
		return dir
	}
	return "/tmp"
}
