package draft

// Scalar writes a scalar of YAML.
func Scalar(s string) string { return scalar(s) }
