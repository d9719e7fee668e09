package draft

// Scalar writes a scalar of YAML.
func Scalar(s string) string { return scalar(s) }

// Writable reports whether a policy can hold s.
func Writable(s string) bool { return writable(s) }
