//go:build !unix

package extension

import "errors"

func checkPrivate(string) error { return errors.New("an extension of AWS Lambda runs on Linux") }
