// Command idle is a process of a sandbox whose part a test plays; or one that exits
// with its first invocation.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
)

func main() {
	fmt.Println("idle is here")
	if os.Getenv("IDLE") == "exit" {
		if _, err := http.Get("http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/next"); err != nil {
			fmt.Println(err)
		}
		os.Exit(3)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt)
	<-signals
}
