// Package served is what the benchmark's functions have in common.
package served

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
)

// CPU is the header with the processor time that the function has used, in
// nanoseconds.
const CPU = "X-Cpu-Ns"

// Run serves requests, which each needs, from the listener that the benchmark left
// open for this process.
func Run(need func(*http.Request) error) error {
	listener, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return fmt.Errorf("taking the listener over: %w", err)
	}
	http.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		if err := need(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set(CPU, used())
		w.WriteHeader(http.StatusOK)
	})
	return http.Serve(listener, nil)
}

func used() string {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return ""
	}
	return strconv.FormatInt(u.Utime.Nano()+u.Stime.Nano(), 10)
}
