package issuers

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// An addressRule says which addresses may be connected to, the issuer's or its
// proxy's. It sees the address and not the name, so that a name that resolves
// differently the second time (DNS rebinding) gains nothing.
type addressRule struct {
	onlyLoopback bool
	private      bool           // allow private use, besides the public addresses
	networks     []netip.Prefix // allowed as well
}

// control is the hook of [net.Dialer] between resolving and connecting.
func (r addressRule) control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("reading the issuer's address: %w", err)
	}
	addr := to.Addr().Unmap().WithZone("")
	switch {
	case r.allows(addr):
		return nil
	case r.onlyLoopback:
		return fmt.Errorf("the issuer's address %v is not loopback, as insecure_http demands", addr)
	case never(addr):
		return fmt.Errorf("the issuer's address %v is link-local, multicast, unspecified or a metadata service's", addr)
	}
	return fmt.Errorf("the issuer's address %v is not public; if that is right, set allow_private or add its network to allow_private_cidrs", addr)
}

func (r addressRule) allows(addr netip.Addr) bool {
	if r.onlyLoopback {
		return addr.IsLoopback()
	}
	if never(addr) {
		return false
	}
	return public(addr) || r.private && inNetworks(embedded(addr), privateUse()) ||
		slices.ContainsFunc(r.networks, func(n netip.Prefix) bool { return n.Contains(addr) })
}

// embedded returns the IPv4 address that a NAT64 gateway reaches under addr
// (RFC 6052, section 2.1), or addr itself.
func embedded(addr netip.Addr) netip.Addr {
	if !netip.MustParsePrefix("64:ff9b::/96").Contains(addr) {
		return addr
	}
	bytes := addr.As16()
	return netip.AddrFrom4([4]byte(bytes[12:]))
}

// public reports whether addr is globally reachable by the IANA special-purpose
// address registries (RFC 6890). Of IPv6 that is 2000::/3 without the parts
// that carry an IPv4 address or lead nowhere; NAT64 is as good as the IPv4
// address in it.
func public(addr netip.Addr) bool {
	addr = embedded(addr)
	if addr.Is6() && !netip.MustParsePrefix("2000::/3").Contains(addr) {
		return false
	}
	return !inNetworks(addr, notPublic()) && !never(addr)
}

// never reports whether addr is where no configuration lets the broker connect
// to: a cloud's metadata service answers there with credentials, or a name that
// resolves to it is a mistake or an attack.
func never(addr netip.Addr) bool { return inNetworks(embedded(addr), neverReached()) }

func inNetworks(addr netip.Addr, cidrs []string) bool {
	return slices.ContainsFunc(cidrs, func(cidr string) bool { return netip.MustParsePrefix(cidr).Contains(addr) })
}

func neverReached() []string {
	return []string{
		"0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", // with broadcast
		"::/128", "fe80::/10", "ff00::/8",
		"168.63.129.16/32",              // Azure's platform, in public space
		"100.100.100.200/32",            // Alibaba Cloud's metadata
		"192.0.0.192/32",                // Oracle Cloud's, older
		"fd00:ec2::/32", "fd20:ce::/32", // AWS's and Google Cloud's over IPv6
	}
}

// privateUse are the networks that allow_private means: RFC 1918, RFC 6598
// (between a provider and its customers, also Tailscale's) and RFC 4193.
// Loopback is not among them: it has to be allowed as a network.
func privateUse() []string {
	return []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"}
}

func notPublic() []string {
	return []string{
		"10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
		"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", // with Teredo and 6to4
	}
}
