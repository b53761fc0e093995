// Renders the page on the server: the sign-in, or the shop with the notifications of the user.
import { order, signIn, signOut } from './actions';
import { Notifications } from './notifications';
import { signedInUser } from './session';

export default async function Page() {
  const user = await signedInUser();
  if (!user) {
    return (
      <main className="sign-in">
        <h1>Little shop</h1>
        <form action={signIn}>
          <button type="submit" className="primary" name="user" value="ana">
            Sign in as Ana
          </button>
          <button type="submit" name="user" value="ben">
            Sign in as Ben
          </button>
        </form>
      </main>
    );
  }
  return (
    <Notifications key={user} hub={process.env.RECADO_URL as string}>
      <main>
        <h1>Little shop</h1>
        <p className="muted">Signed in as {user}.</p>
        <form action={order} className="row">
          <button type="submit" className="primary" name="item" value="Lamp">
            Order a lamp
          </button>
          <button type="submit" className="primary" name="item" value="Vase">
            Order a vase
          </button>
          <button type="submit" formAction={signOut}>
            Sign out
          </button>
        </form>
      </main>
    </Notifications>
  );
}
