package serve

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notify tells systemd, if it started us, that the program is up, then feeds its watchdog for as long
// as the program is healthy, and at the end says that it is stopping. It blocks until ctx ends.
//
// "Up" does not wait for the store: a host boots with the store away, and a unit that then failed to
// start would be given up by systemd.
func notify(ctx context.Context, cfg Config) {
	send := func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			cfg.Logger.Warn("systemd was not notified", "state", state, "err", err)
		}
	}
	send(daemon.SdNotifyReady)
	defer send(daemon.SdNotifyStopping)
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval <= 0 {
		<-ctx.Done()
		return
	}
	// Half the interval, as systemd advises; a sick process stays silent and is restarted.
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if cfg.Healthy != nil {
				if err := cfg.Healthy(); err != nil {
					cfg.Logger.Error("not healthy: the watchdog is not fed", "err", err)
					continue
				}
			}
			send(daemon.SdNotifyWatchdog)
		}
	}
}
