package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/brevet-dev/brevet/plugins/runner"
)

// A route says which credential is for a host, or for what is below a path there.
type route struct {
	host, path string // path without slashes at its ends; "": all
	user       string
	credential string
}

// routes are those of one variable, the longest path of each host first.
type routes []route

// parseRoutes reads "HOST[:PORT][/PATH]=[USER@]CREDENTIAL", several separated by
// white space or commas. user is for those that name none.
func parseRoutes(variable, text, user string) (routes, error) {
	var out routes
	seen := map[string]bool{}
	for entry := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ' ' || r == ',' || r == '\n' || r == '\t' || r == '\r' }) {
		where, what, ok := strings.Cut(entry, "=")
		host, path, _ := strings.Cut(where, "/")
		r := route{strings.ToLower(host), strings.Trim(path, "/"), user, what}
		if i := strings.LastIndex(what, "@"); i >= 0 {
			r.user, r.credential = what[:i], what[i+1:]
		}
		if !ok || host == "" || r.credential == "" || strings.Contains(where, ":/") || seen[r.host+"/"+r.path] {
			return nil, &runner.Failure{
				Kind: runner.Misconfigured, Err: fmt.Errorf("%s: %.80q is not HOST=CREDENTIAL, or its host is there twice", variable, entry),
				Hint: "as  " + variable + "=registry.example.com=registry,git.example.com:8443/acme=robot@git",
			}
		}
		seen[r.host+"/"+r.path] = true
		out = append(out, r)
	}
	return out, nil
}

// find returns the route of host with the longest path that path is below.
func (rs routes) find(host, path string) (route, bool) {
	path = strings.Trim(path, "/")
	var best route
	found := false
	for _, r := range rs {
		below := r.path == "" || path == r.path || strings.HasPrefix(path, r.path+"/")
		if r.host == host && below && (!found || len(r.path) > len(best.path)) {
			best, found = r, true
		}
	}
	return best, found
}

// needsPath reports whether all routes of host have a path.
func (rs routes) needsPath(host string) bool {
	return slices.ContainsFunc(rs, func(r route) bool { return r.host == strings.ToLower(host) })
}
