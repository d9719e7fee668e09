//go:build unix

package extension

import (
	"fmt"
	"os"

	"github.com/brevet-dev/brevet/plugins/exchange"
)

// checkPrivate refuses a folder that another user owns or may enter.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir) // not Stat: a link could lead anywhere
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", dir)
	}
	return exchange.CheckPrivate(info, dir)
}
