// Command cmd serves the function on this machine, as Google's build does there:
//
//	FUNCTION_TARGET=Shop LOCAL_ONLY=true go run ./examples/functions/google-go/cmd
package main

import (
	"cmp"
	"log"
	"os"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"

	_ "github.com/brevet-dev/brevet/examples/functions/google-go" // which registers it
)

func main() {
	host := ""
	if os.Getenv("LOCAL_ONLY") == "true" {
		host = "127.0.0.1"
	}
	if err := funcframework.StartHostPort(host, cmp.Or(os.Getenv("PORT"), "8080")); err != nil {
		log.Fatal(err)
	}
}
