// Package shop is a function for Google Cloud: Cloud Run functions, with Google's
// own framework. It gets its credentials from a broker while an instance starts.
//
// Source: https://cloud.google.com/run/docs/write-functions
package shop

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/brevet-dev/brevet/plugins/function"
)

// endTime is how long an instance may take to end: Google kills it ten seconds after
// it was told, https://cloud.google.com/run/docs/container-contract.
const endTime = 8 * time.Second

// init is where Google's framework has functions registered. It runs once in each
// instance, before the first request.
func init() {
	credentials, err := function.New(context.Background(), os.Getenv("BROKER_URL"), "database")
	if err != nil {
		log.Fatal(err) // says what is missing, and holds no secret
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	go func() {
		<-end
		os.Exit(giveBack(credentials))
	}()
	functions.HTTP("Shop", func(w http.ResponseWriter, r *http.Request) { serve(w, r, credentials) })
}

// serve answers one request. A function would open its database here; this one says
// under which lease.
func serve(w http.ResponseWriter, r *http.Request, credentials *function.Set) {
	database, err := credentials.Get(r.Context(), "database") // from memory
	if err != nil {
		log.Print(err)
		http.Error(w, "no database", http.StatusServiceUnavailable)
		return
	}
	password, err := database.Value("token")
	if err != nil || password.IsZero() {
		http.Error(w, "no token for the database", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, database.LeaseID, database.ExpiresAt.Format(time.RFC3339))
}

// giveBack ends what the instance has, and returns its exit status.
func giveBack(credentials *function.Set) int {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	if err := credentials.Close(ctx); err != nil {
		log.Print(err)
		return 1
	}
	return 0
}
