package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// floorCommand is the first argument that makes this program the floor.
const floorCommand = "floor"

// serveFloor is the least that a server could do for an exchange: it reads the
// form and answers with a body of the size that the broker's has. args are the
// address, the files of the certificate and its key, and the size in bytes.
func serveFloor(ctx context.Context, args []string) error {
	if len(args) != 4 {
		return errors.New("floor is how bench starts its other half: it needs ADDRESS CERT KEY SIZE")
	}
	size, err := strconv.Atoi(args[3])
	if err != nil || size < 0 {
		return fmt.Errorf("the size %q is no number of bytes", args[3])
	}
	server := &http.Server{Addr: args[0], Handler: floorHandler(size), ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { server.Close() })() // its error is Serve's, below
	err = server.ListenAndServeTLS(args[1], args[2])
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving the floor: %w", err)
}

func floorHandler(size int) http.Handler {
	body := bytes.Repeat([]byte("x"), size)
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.PathToken, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, api.MaxBody)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.Write(body) // the client may be gone, and counts that as its error
	})
	return mux
}
