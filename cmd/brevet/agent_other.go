//go:build !unix

package main

import (
	"errors"
	"io"
	"os"
)

func isAlive(*os.Process) bool { return false }

// A background is a brevet that outlives this one: on unix only.
type background struct{ out io.Reader }

func (p *program) background([]string) (*background, error) {
	return nil, errors.New("it is not supported on this system")
}

func (c *background) failed(io.Writer) int { return exitInternal }
func (c *background) end() error           { return nil }
func (c *background) release() error       { return nil }
