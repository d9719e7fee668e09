// Command plain is a function as net/http makes one: on Cloud Run, as a custom
// handler of Azure Functions, in a pod.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/brevet-dev/brevet/plugins/function"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	term, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	stale, err := time.ParseDuration(cmp.Or(os.Getenv("MAX_STALE"), "0"))
	if err != nil {
		return err
	}
	options := function.Options{Audience: os.Getenv("BROKER_AUDIENCE"), MaxStale: stale, Listen: os.Getenv("LISTEN") != ""}
	credentials, err := options.New(term, os.Getenv("BROKER_URL"), "database")
	if err != nil {
		return err
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		database, err := credentials.Get(function.WithRequest(r.Context(), r), "database")
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, database.LeaseID, database.ExpiresAt.Format(time.RFC3339))
	})
	server := &http.Server{Addr: "127.0.0.1:" + cmp.Or(os.Getenv("FUNCTIONS_CUSTOMHANDLER_PORT"), os.Getenv("PORT"))}
	served := make(chan error, 1)
	go func() { served <- server.ListenAndServe() }()
	select {
	case err := <-served:
		return err
	case <-term.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return err
	}
	return credentials.Close(ctx)
}
