//go:build !unix

package agent

import "net"

func checkPrivate(string) error { return errUnsupported }
func checkPeer(net.Conn) error  { return errUnsupported }
func isGone(error) bool         { return false }
