// Shop is the app of shop.yaml. It knows nothing of brevet: for each connection it
// reads the database's URL anew, from the file that it is told of.
package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		database, err := databaseURL(os.Getenv("DATABASE_URL_FILE"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "connecting to %s as %s\n", database.Host, database.User.Username())
	})
	server := &http.Server{Addr: os.Getenv("LISTEN"), ReadHeaderTimeout: 5 * time.Second}
	fmt.Fprintln(os.Stderr, "shop:", server.ListenAndServe())
	os.Exit(1)
}

// databaseURL reads a file with a URL. Its errors do not quote it: there is a
// password in it.
func databaseURL(path string) (*url.URL, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the database's URL: %w", err)
	}
	u, err := url.Parse(strings.TrimSpace(string(text)))
	if err != nil || u.User == nil {
		return nil, errors.New("what was read is not the URL of a database with a user")
	}
	return u, nil
}
