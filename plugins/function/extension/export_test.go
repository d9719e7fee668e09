package extension

// What the tests reach directly.
var (
	MaxConns = maxConns
)

// Folder makes the extension's folder.
func Folder(dir string) error {
	_, err := openFolder(dir, false)
	return err
}

// Wipe removes a folder.
func Wipe(dir string) error { return wipe(dir) }
