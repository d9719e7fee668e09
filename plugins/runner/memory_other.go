//go:build !linux

package runner

// memoryDir names the folder for temporary files: only Linux has one in memory
// by default.
func memoryDir(env Env) string { return tempDir(env) }

func inMemory(string) bool { return false }
