// Package tune decides, while a pre-copy migration runs, what to do about it: wait, change the
// downtime limit, or give up. It is pure: Step takes one reading of the job and the time, and
// returns an action and the reason. The caller carries the action out.
package tune
