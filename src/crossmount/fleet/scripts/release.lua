-- Deletes a lease and a waiter's entry, if they are ours, and wakes those that wait for the lease.
-- KEYS: the lease, its waiters
-- ARGV: our value, the channel on which waiters are woken, PUBLISH or on a Cluster SPUBLISH
-- Returns: 1 if the lease was ours
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
if redis.call('EXISTS', KEYS[2]) == 1 then
  if ARGV[3] == 'SPUBLISH' then
    redis.pcall('SPUBLISH', ARGV[2], 'free')  -- a refusal costs waiters a moment, and nothing else
  else
    redis.pcall('PUBLISH', ARGV[2], 'free')
  end
end
return 1
