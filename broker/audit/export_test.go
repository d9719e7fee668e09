package audit

// File is what a Log writes to.
type File = file

// WrapFile puts something between l and its file, before the first Record. No
// disk at hand fails to sync on demand.
func (l *Log) WrapFile(wrap func(File) File) { l.file = wrap(l.file) }
