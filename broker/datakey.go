package broker

import (
	"errors"
)

// ErrWrapped says that a wrapped data key is not one that this fleet made, or
// was changed, or that the KEK around it was destroyed.
var ErrWrapped = errors.New("wrapped data key not accepted")
