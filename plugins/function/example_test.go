package function_test

import (
	"context"
	"fmt"
	"log"
	"net/http"

	"github.com/brevet-dev/brevet/plugins/function"
)

// A function of Cloud Run, or of any other platform that serves HTTP.
func Example() {
	credentials, err := function.New(context.Background(), "https://broker.example.com", "database")
	if err != nil {
		log.Fatal(err) // says what is missing, and holds no secret
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		database, err := credentials.Get(function.WithRequest(r.Context(), r), "database")
		if err != nil {
			http.Error(w, "no database right now", http.StatusServiceUnavailable)
			return
		}
		token, err := database.Value("token")
		if err != nil {
			http.Error(w, "no database right now", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, query(r.Context(), token.Reveal()))
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}

func query(context.Context, string) string { return "42" }
